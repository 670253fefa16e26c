//! How answers are printed: to whoever reads them to the end or not, and so that bytes of strangers move no cursor of a
//! terminal.

pub use compactor::delete::predicate::cut;

use indicatif::HumanCount;
use std::fmt::Write;
use std::io::{self, ErrorKind};

/// Text that can be read as it stands; `None` if the bytes are something else.
pub fn readable(bytes: &[u8]) -> Option<&str> {
    let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    std::str::from_utf8(bytes).ok().filter(|text| text.chars().all(is_plain))
}

/// One line of text, with what is not to be printed written as in a string of Rust.
pub fn in_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

/// How many of something, for people.
pub fn counted(count: u64, one: &str) -> String {
    format!("{} {one}{}", HumanCount(count), if count == 1 { "" } else { "s" })
}

/// Bytes as text if they are, else sixteen a line: offset, numbers, and the letters among them.
pub fn dump(bytes: &[u8]) -> String {
    if let Some(text) = readable(bytes) {
        return format!("{}\n", text.trim_end_matches('\n'));
    }
    let mut dump = String::with_capacity(bytes.len() * 5);
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let numbers: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let letters = chunk.iter().map(|byte| if byte.is_ascii_graphic() { *byte as char } else { '.' });
        // Writing to memory cannot fail.
        let _ = writeln!(dump, "{:08x}  {:<47}  {}", line * 16, numbers.join(" "), letters.collect::<String>());
    }
    dump
}

/// What printing to standard output has come to: a reader of a pipe that has seen enough is no failure.
pub fn to_stdout(printed: io::Result<()>) -> anyhow::Result<()> {
    match printed {
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_and_the_rest_is_numbers() {
        assert_eq!(dump("a ü\n\tb\n".as_bytes()), "a ü\n\tb\n");
        assert_eq!(dump(b"\x1b[2Jhello"), "00000000  1b 5b 32 4a 68 65 6c 6c 6f                       .[2Jhello\n");
        assert_eq!(dump(&[0; 17]).lines().count(), 2);
    }

    #[test]
    fn one_is_told_as_one() {
        assert_eq!((counted(1, "row"), counted(1_200, "row")), ("1 row".to_owned(), "1,200 rows".to_owned()));
    }

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(in_one_line("a\nb\x1b[2Jü"), "a\\nb\\u{1b}[2Jü");
    }
}
