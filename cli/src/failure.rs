//! How an error is told: in one line, each cause once.

/// The error and its causes. Libraries that put a cause into their own message would have it told twice.
pub fn in_one_line(err: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in err.chain() {
        let cause = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_that_a_message_repeats_is_told_once() {
        let err = anyhow!("refused").context("get x: refused").context("read the\n  table");
        assert_eq!(in_one_line(&err), "read the table: get x: refused");
    }
}
