"""What a user asks for besides the stages."""
