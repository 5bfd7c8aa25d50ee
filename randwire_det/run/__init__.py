"""What any run needs: checkpoints, processes, output folders, pictures, the command line."""
