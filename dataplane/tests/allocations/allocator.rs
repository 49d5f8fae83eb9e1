//! The allocator of this program, which counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

/// The system's allocator, with a count of what each thread asks of it.
struct Counting;

/// Calls of the allocator by one thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Calls {
    allocations: u64,
    deallocations: u64,
}
thread_local! {
    // Made without a call of the allocator, which would not end.
    static CALLS: Cell<Calls> = const { Cell::new(Calls { allocations: 0, deallocations: 0 }) };
}
#[global_allocator]
static COUNTING: Counting = Counting;
// SAFETY: every request goes unchanged to `System`, which upholds the contract; the count touches no memory but the
// thread's own cell, which needs no allocator and no destructor. Zeroed and resized memory come through the trait's
// default methods, which call these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(Calls { allocations: CALLS.get().allocations + 1, ..CALLS.get() });
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        CALLS.set(Calls { deallocations: CALLS.get().deallocations + 1, ..CALLS.get() });
        // SAFETY: the pointer came from `alloc` above, so from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Does something and returns what it asked of the allocator.
fn calls_of<T>(body: impl FnOnce() -> T) -> (T, Calls) {
    let before = CALLS.get();
    let value = body();
    let after = CALLS.get();
    let calls = Calls {
        allocations: after.allocations - before.allocations,
        deallocations: after.deallocations - before.deallocations,
    };
    (value, calls)
}

/// Does something that must not ask the allocator for anything.
#[track_caller]
pub(super) fn without_allocator<T>(body: impl FnOnce() -> T) -> T {
    let (value, calls) = calls_of(body);
    assert_eq!(calls, Calls { allocations: 0, deallocations: 0 });
    value
}

#[test]
fn a_vector_of_one_octet_would_be_noticed() {
    let ((), calls) = calls_of(|| drop(black_box(Vec::<u8>::with_capacity(1))));
    assert_eq!(calls, Calls { allocations: 1, deallocations: 1 });
    let (vector, calls) = calls_of(|| black_box(vec![0_u64; 8]));
    assert_eq!(calls, Calls { allocations: 1, deallocations: 0 });
    let ((), calls) = calls_of(|| drop(vector));
    assert_eq!(calls, Calls { allocations: 0, deallocations: 1 });
}
