//! Memory that starting took and serving does not need.
#![allow(unsafe_code)]

use std::fs;
use std::path::Path;

/// Unmaps the pages of this program's own code and constants that are in memory; those that are used come back at once, from
/// the page cache.
///
/// Starting runs parsers, builders and constructors all over a large program once, and each page it touched is counted as
/// this process's for ever. Call it when everything is up. Does nothing where `/proc` is missing.
pub fn forget_code() {
    let Ok(program) = fs::read_link("/proc/self/exe") else {
        return;
    };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in code(&maps, &program) {
        // SAFETY: the range is a mapping of this process's program whose pages are equal to the file's: of its code, or of its
        // first segment (headers and constants). Neither was ever writable, and relocations are made in others, so dropping
        // the pages changes no byte that anybody can read.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Start and length of the mappings of `program` that were never writable: its code, and the segment at its beginning. A
/// later one that can only be read may have been written to before it was sealed (RELRO).
fn code<'a>(maps: &'a str, program: &'a Path) -> impl Iterator<Item = (usize, usize)> + 'a {
    maps.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights) = (fields.next()?, fields.next()?);
        let first = fields.next()?.bytes().all(|digit| digit == b'0');
        let path = fields.nth(2)?;
        let untouched = rights == "r-xp" || (rights == "r--p" && first);
        if !untouched || Path::new(path) != program {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        Some((start, end.checked_sub(start)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_code_is_meant() {
        let maps = "\
55d938b8c000-55d939e9f000 r--p 00000000 fe:00 1 /usr/bin/malla
55d939e9f000-55d93d1f0000 r-xp 01313000 fe:00 1 /usr/bin/malla
55d93d1f0000-55d93d372000 r--p 04664000 fe:00 1 /usr/bin/malla
55d93d372000-55d93d379000 rw-p 00000000 fe:00 1 /usr/bin/malla
7fb2430ff000-7fb2439ff000 rw-p 00000000 00:00 0
7fb244200000-7fb244a00000 r-xp 00000000 fe:00 2 /usr/lib/libc.so.6
";
        let found: Vec<_> = code(maps, Path::new("/usr/bin/malla")).collect();
        let expected = [
            (0x55d9_38b8_c000, 0x131_3000),
            (0x55d9_39e9_f000, 0x335_1000),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_program_goes_on() {
        forget_code();
        assert_eq!(std::hint::black_box("still here").len(), 10);
    }
}
