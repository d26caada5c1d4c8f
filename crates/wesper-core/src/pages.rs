//! Huge pages for large tables whose rows are read at random: an address in one of 2 MiB is found without a walk
//! through the page tables, and only then does a prefetch reach its row.
#![allow(unsafe_code)]

/// Asks for huge pages under memory. A wish: where it can't be had, and what is written to already, nothing changes.
pub(crate) fn prefer_huge<T>(memory: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let from = memory.as_ptr() as usize;
        let (first, end) = (from.next_multiple_of(PAGE), (from + memory.capacity() * size_of::<T>()) & !(PAGE - 1));
        if end > first {
            // SAFETY: the range lies in the vector's own memory; the advice changes how it is mapped, not what is in it.
            unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_stays() {
        let mut rows: Vec<u64> = Vec::with_capacity(1 << 19);
        rows.push(42);
        prefer_huge(&rows);
        rows.extend(1..1 << 19);
        assert!(rows[0] == 42 && rows.iter().skip(1).eq(&(1..1 << 19).collect::<Vec<u64>>()));
        prefer_huge(&Vec::<u64>::new());
    }
}
