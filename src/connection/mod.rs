//! RFC 4254 messages: encode, decode, windows.
