"""What is particular to Microsoft: MSAL, the rules of Entra ID, and what its refusals mean."""
