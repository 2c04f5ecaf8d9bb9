//! What a test's thread has allocated, and the most it had at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    MOST.set(MOST.get().max(now));
}

#[allow(unsafe_code, reason = "an allocator is; it hands everything on")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Where it moves, both are there for a while.
        count(size as isize);
        count(-(layout.size() as isize));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was there at once since it was made, beside what was there then.
pub(crate) struct Peak(isize);

impl Peak {
    /// From here on; of two, the later one alone is right.
    pub(crate) fn new() -> Self {
        MOST.set(NOW.get());
        Self(NOW.get())
    }

    /// In bytes.
    pub(crate) fn bytes(&self) -> usize {
        (MOST.get() - self.0) as usize
    }
}

/// What `run` gives, which must never have more than twice the `n_bytes` that it reads, and 64 MiB.
#[allow(dead_code, reason = "some tests have no one input")]
pub(crate) fn within<T>(what: &str, n_bytes: usize, run: impl FnOnce() -> T) -> T {
    let peak = Peak::new();
    let result = run();
    assert!(peak.bytes() < (64 << 20) + 2 * n_bytes, "{what}: {n_bytes} bytes took {} MiB", peak.bytes() >> 20);
    result
}
