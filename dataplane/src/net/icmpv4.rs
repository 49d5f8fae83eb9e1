//! icmpv4.
