//! Memory that is kept for when there is none: the launcher must not end because an allocation failed, as everything that runs
//! would end with it. The allocator of the whole program is the system's; only where that has nothing left, the ballast is
//! thrown off once and it is asked again. Who has thrown it off takes on nothing new until there is ballast again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// More than anything that is in hand needs to be finished. From 128 KiB on, the system's allocators map memory by itself,
/// so that what is given back can be had in any form.
const SIZE: usize = 1 << 20;

const LAYOUT: Layout = match Layout::from_size_align(SIZE, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("a size and an alignment"),
};

static BALLAST: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// Whether there should be ballast: only in a launcher.
static WANTED: AtomicBool = AtomicBool::new(false);

/// The allocator of a program that may run as the launcher: `#[global_allocator]`.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: it hands out what the system's allocator hands out, and gives it back to that.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        or_without_ballast(|| unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        or_without_ballast(|| unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; what could not be grown is still there to be tried again.
        or_without_ballast(|| unsafe { System.realloc(old, layout, size) })
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) };
    }
}

#[inline]
fn or_without_ballast(allocate: impl Fn() -> *mut u8) -> *mut u8 {
    let made = allocate();
    if made.is_null() && throw_off() {
        allocate()
    } else {
        made
    }
}

#[cold]
fn throw_off() -> bool {
    let ballast = BALLAST.swap(ptr::null_mut(), Ordering::Relaxed);
    if ballast.is_null() {
        return false;
    }
    // SAFETY: it was allocated by `take` with this layout, and only this swap got it.
    unsafe { System.dealloc(ballast, LAYOUT) };
    true
}

/// Takes ballast on, or again; `false` where there is no memory for it.
pub(crate) fn take() -> bool {
    WANTED.store(true, Ordering::Relaxed);
    if !BALLAST.load(Ordering::Relaxed).is_null() {
        return true;
    }
    // SAFETY: the layout's size is not zero.
    let made = unsafe { System.alloc(LAYOUT) };
    let other = BALLAST.swap(made, Ordering::Relaxed);
    if !other.is_null() {
        // SAFETY: as in `throw_off`.
        unsafe { System.dealloc(other, LAYOUT) };
    }
    !made.is_null()
}

/// Whether there should be ballast and is none.
pub(crate) fn is_gone() -> bool {
    WANTED.load(Ordering::Relaxed) && BALLAST.load(Ordering::Relaxed).is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_without_ballast() {
        use std::cell::Cell;
        assert!(take() && !is_gone());
        let tries = Cell::new(0);
        let fail = || {
            tries.set(tries.get() + 1);
            ptr::null_mut()
        };
        assert!(or_without_ballast(fail).is_null());
        assert_eq!((tries.get(), is_gone()), (2, true));
        // There is nothing left to throw off.
        assert!(or_without_ballast(fail).is_null());
        assert_eq!(tries.get(), 3);
        assert!(take() && !is_gone());
        let byte = 0u8;
        or_without_ballast(|| (&raw const byte).cast_mut());
        assert!(!is_gone());
    }
}
