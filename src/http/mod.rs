//! A minimal blocking HTTP/1.1 client.
