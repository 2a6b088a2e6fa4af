"""The scaling lab: topologies taken up a ladder of users, measured on two clocks, judged and reported."""
