"""What can be done: one decision, one transaction each. Everything that changes state goes through here."""
