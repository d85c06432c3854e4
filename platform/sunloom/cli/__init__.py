"""The command line: talks to people, calls one library function a command."""
