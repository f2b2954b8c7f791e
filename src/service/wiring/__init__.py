"""What `app.py` puts together, feature by feature: each file builds one feature from the ground that all share."""
