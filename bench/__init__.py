"""fastgan against torch, case by case. See README.md beside this file."""
