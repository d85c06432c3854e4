"""What joins the pillars: jobs and the end-to-end demo."""
