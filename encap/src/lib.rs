//! Bytes on the wire: header views, checksums and tunnels.
#![forbid(unsafe_code)]
