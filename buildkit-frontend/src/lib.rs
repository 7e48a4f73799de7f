//! The kit for custom BuildKit frontends: the gateway, its helpers, and a server for frontend images.
