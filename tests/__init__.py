"""The test suite. Tests in ``e2e`` start real processes; ``support`` holds what tests share."""
