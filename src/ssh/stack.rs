//! The memory of a thread's stack.
//!
//! A key exchange needs many times the stack that waiting does, and what was touched once stays with the process. A
//! connection that waits gives it back: with a thread for each, that is most of what an idle one costs.
#![allow(unsafe_code, reason = "neither std nor rustix knows where a thread's stack is")]

use std::ffi::c_void;
use std::mem::MaybeUninit;

use rustix::mm::{Advice, madvise};

/// What is left below the caller's frame, in bytes: for the frames of the calls that do the work, and a signal's.
const MARGIN: usize = 4096;

/// Gives the unused part of the calling thread's stack back to the kernel. It reads as zeros when it is used again.
pub fn trim() {
    let Some(lowest) = lowest() else { return };
    let here = MaybeUninit::<u8>::uninit();
    let end = (here.as_ptr().addr() - MARGIN) & !(rustix::param::page_size() - 1);
    if end > lowest {
        let start = std::ptr::with_exposed_provenance_mut::<c_void>(lowest);
        // SAFETY: the range lies in this thread's stack and below every frame that lives: it holds nothing, since
        // stacks grow downwards. On failure nothing has changed.
        let _ = unsafe { madvise(start, end - lowest, Advice::LinuxDontNeed) };
    }
}

/// The address at which this thread's stack ends, its guard excluded.
fn lowest() -> Option<usize> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut lowest, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: each call is given pointers to live values of the right types; `attributes` is read only where the call
    // that fills it in has succeeded, and is destroyed then.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        let found = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut lowest, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        (found == 0).then(|| lowest.expose_provenance())
    }
}

#[cfg(test)]
mod tests {
    use super::trim;

    /// Touches `depth` kB of stack.
    fn dig(depth: usize) -> u8 {
        let frame = std::hint::black_box([1u8; 1024]);
        if depth == 0 { frame[0] } else { dig(depth - 1).wrapping_add(frame[depth % 1024]) }
    }

    /// This process's resident memory in pages.
    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/thread-self/statm").unwrap();
        text.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn a_trimmed_stack_costs_nothing_and_still_works() {
        std::thread::Builder::new()
            .stack_size(64 << 20)
            .spawn(|| {
                let first = dig(20_000);
                let before = resident();
                trim();
                // Other tests run beside this one, and none takes as much.
                assert!(before - resident() > 2000, "{before} {}", resident());
                assert_eq!(dig(20_000), first);
            })
            .unwrap()
            .join()
            .unwrap();
    }
}
