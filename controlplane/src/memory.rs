//! Giving memory back to the kernel.

// The allocator's call has no safe binding.
#![allow(unsafe_code)]

/// Gives back what the allocator keeps of memory that is free: after a change of a great part of the cluster that is
/// more than all that stays. Costs milliseconds.
#[cfg(target_env = "gnu")]
pub fn give_back() {
    // SAFETY: malloc_trim takes the allocator's own locks and changes nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators have no such call.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
