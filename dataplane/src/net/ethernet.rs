//! ethernet.
