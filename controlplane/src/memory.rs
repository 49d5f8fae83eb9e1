//! How the allocator keeps memory, and giving it back to the kernel.

// The allocator's calls have no safe binding.
#![allow(unsafe_code)]

/// Buffers from this size on are mappings of their own, which go back to the kernel with them; octets.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 256 * 1024;

/// Has all threads take memory from one place. Each helper thread with an arena of its own left a third of what a great
/// cluster took there, unused: objects that stay lay between what reading them had needed.
///
/// To be called before there are threads; without effect where the allocator has no such settings.
#[cfg(target_env = "gnu")]
pub fn share_one_arena() {
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, MAPPED_FROM)] {
        // SAFETY: mallopt changes numbers that the allocator goes by, under its own lock; nothing that is allocated
        // moves.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other allocators have no such settings.
#[cfg(not(target_env = "gnu"))]
pub fn share_one_arena() {}

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
