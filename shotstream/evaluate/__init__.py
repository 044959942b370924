"""What is it worth, and what does it cost?"""
