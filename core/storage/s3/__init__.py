"""The parts of the S3 store: client, retries, single objects, listing, upload, download, conditional writes."""
