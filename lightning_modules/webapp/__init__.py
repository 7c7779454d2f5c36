"""The web app: upload songs, separate them, play and download the stems."""
