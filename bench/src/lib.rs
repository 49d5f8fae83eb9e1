//! Benchmarks of the packet path; see `benches/`.
