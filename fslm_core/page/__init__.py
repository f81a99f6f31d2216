"""`fslm ui`: a page to look at traces. The server renders HTML; nothing is fetched from anywhere else."""
