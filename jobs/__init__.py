"""What users submit: the console command and one module per job."""
