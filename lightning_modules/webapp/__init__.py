"""The web app: songs in, stems to listen to out."""
