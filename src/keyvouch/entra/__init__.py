"""Support for Microsoft Entra ID: MSAL integration, Entra's rules, and the meaning of its errors."""
