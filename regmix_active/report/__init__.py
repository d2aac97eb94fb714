"""What people see: the live view and the tables on the terminal, and the files of a run folder."""
