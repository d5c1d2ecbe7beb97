"""Where artefacts are kept: one interface over a local folder and an S3 bucket. May import inputs and below."""
