"""`report.html`: one self-contained page of a workspace. `facts` gathers what it shows, `document` renders it."""
