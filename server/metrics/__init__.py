"""What a replica counts (`counts`), where its workers keep it (`folder`), and what a scrape answers (`scrape`)."""
