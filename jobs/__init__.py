"""The console command and one module per job."""
