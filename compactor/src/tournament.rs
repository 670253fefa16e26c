//! Which of many sorted inputs has the smallest key: a tree of losers with offset-value codes (Graefe and Do, "Offset-value
//! coding in database query processing", EDBT 2023).
//!
//! A key is a row of words here. Its code says how it differs from a smaller key, its base: in which word first, and what
//! that word is. Of two keys with the same base the one that differs later is smaller, or, if both differ in the same word,
//! the one with the smaller word; only if these are the same too must the keys themselves be looked at, and from there on.
//! The greater key's code is then right for the smaller as its base. As the key handed out last is the base of all that
//! lost to it and, in its own input, of the key after it, keys are compared as numbers nearly always: those of a device
//! have many bytes in common, and there are as many of them as there are inputs.

use std::cmp::Ordering;

/// How a key differs from its base. Greater keys have greater codes, or the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Code(u64);

/// Bytes of a word. The last one of a key is filled up with zeros.
const WORD: usize = size_of::<u32>();

impl Code {
    /// Of a key that is its base.
    const SAME: Code = Code(0);
    /// Of an input without any more keys.
    const END: Code = Code(u64::MAX);

    /// `None` if the key is smaller than the base.
    pub(crate) fn of(key: &[u8], base: &[u8]) -> Option<Code> {
        let at = common(key, base);
        if key[at..] < base[at..] {
            return None;
        }
        Some(if at == key.len() { Code::SAME } else { Code::differing(key, at) })
    }

    /// Of a key that is greater than its base and has so many first bytes in common with it.
    fn differing(key: &[u8], bytes: usize) -> Code {
        let number = bytes / WORD;
        let mut word = [0; WORD];
        let rest = &key[number * WORD..key.len().min((number + 1) * WORD)];
        word[..rest.len()].copy_from_slice(rest);
        // Neither the least nor the greatest code.
        let earlier = u32::MAX - 1 - number as u32;
        Code(u64::from(earlier) << u32::BITS | u64::from(u32::from_be_bytes(word)))
    }

    /// Where the word begins in which the key differs from its base.
    fn at(self) -> usize {
        (u32::MAX - 1 - (self.0 >> u32::BITS) as u32) as usize * WORD
    }
}

/// How many first bytes they have in common.
fn common(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let words = words_a.iter().zip(words_b).take_while(|(a, b)| a == b).count();
    let (rest_a, rest_b) = (&a[8 * words..], &b[8 * words..]);
    8 * words + rest_a.iter().zip(rest_b).take_while(|(a, b)| a == b).count()
}

/// A game for every two inputs, then for every two winners, and so on.
#[derive(Debug)]
pub(crate) struct Tournament {
    /// Who won all games first, then who lost each; `None` while the other has not come yet.
    players: Vec<Option<usize>>,
    /// Of the key that each input has now. The base is the key that it lost to last.
    codes: Vec<Code>,
}

impl Tournament {
    /// Of inputs none of which has entered a key.
    pub(crate) fn new(inputs: usize) -> Tournament {
        Tournament { players: vec![None; inputs.max(1)], codes: vec![Code::END; inputs] }
    }

    /// The input with the smallest key, of equal ones the first; `None` if no input has any more keys. To be asked when
    /// every input has entered.
    pub(crate) fn winner(&self) -> Option<usize> {
        self.players[0].filter(|winner| self.codes[*winner] != Code::END)
    }

    /// Enters a key: the first of each input, with its code for an empty base, then always the next of the winner, with
    /// its code for the key before it; `None` if there is none. `key` tells the keys of other inputs, too.
    pub(crate) fn enter<'a>(&mut self, input: usize, code: Option<Code>, key: impl Fn(usize) -> &'a [u8]) {
        self.codes[input] = code.unwrap_or(Code::END);
        let mut winner = input;
        let mut game = (input + self.players.len()) / 2;
        while game > 0 {
            let Some(other) = self.players[game] else {
                self.players[game] = Some(winner);
                return;
            };
            if self.beats(other, winner, &key) {
                self.players[game] = Some(winner);
                winner = other;
            }
            game /= 2;
        }
        self.players[0] = Some(winner);
    }

    fn beats<'a>(&mut self, one: usize, other: usize, key: &impl Fn(usize) -> &'a [u8]) -> bool {
        let (code, other_code) = (self.codes[one], self.codes[other]);
        match code.cmp(&other_code) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal if code == Code::SAME || code == Code::END => one < other,
            Ordering::Equal => self.beats_by_key(one, other, code.at(), key),
        }
    }

    /// Looks at the keys, which have so many first bytes in common, or more.
    fn beats_by_key<'a>(&mut self, one: usize, other: usize, at: usize, key: &impl Fn(usize) -> &'a [u8]) -> bool {
        let keys = (key(one), key(other));
        let at = at + common(&keys.0[at..], &keys.1[at..]);
        let order = keys.0[at..].cmp(&keys.1[at..]);
        let beats = order.then(one.cmp(&other)).is_lt();
        let (loser, lost) = if beats { (other, keys.1) } else { (one, keys.0) };
        self.codes[loser] = if order.is_eq() { Code::SAME } else { Code::differing(lost, at) };
        beats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The inputs by the order of their keys, as the tournament has it.
    fn order(inputs: &[Vec<Vec<u8>>]) -> Vec<(usize, usize)> {
        let mut next = vec![0; inputs.len()];
        let mut tournament = Tournament::new(inputs.len());
        let code = |input: usize, row: usize| {
            let key = inputs[input].get(row)?;
            let base = row.checked_sub(1).map_or(&[][..], |before| &inputs[input][before]);
            Some(Code::of(key, base).expect("keys of an input are sorted"))
        };
        for input in 0..inputs.len() {
            tournament.enter(input, code(input, 0), |input| &inputs[input][0]);
        }
        let mut order = Vec::new();
        while let Some(winner) = tournament.winner() {
            order.push((winner, next[winner]));
            next[winner] += 1;
            tournament.enter(winner, code(winner, next[winner]), |input| &inputs[input][next[input]]);
        }
        order
    }

    fn reference(inputs: &[Vec<Vec<u8>>]) -> Vec<(usize, usize)> {
        let rows =
            |(input, keys): (usize, &Vec<Vec<u8>>)| (0..keys.len()).map(move |row| (input, row)).collect::<Vec<_>>();
        let mut order: Vec<(usize, usize)> = inputs.iter().enumerate().flat_map(rows).collect();
        order.sort_by_key(|(input, row)| (&inputs[*input][*row], *input, *row));
        order
    }

    proptest! {
        /// Keys that are equal, that begin alike for long, and that are the beginning of others.
        #[test]
        fn keys_come_in_order_and_equal_ones_in_that_of_their_inputs(
            mut inputs in proptest::collection::vec(
                proptest::collection::vec(
                    (0..3u8, 0..3usize, proptest::collection::vec(0..2u8, 0..12)).prop_map(|(first, same, rest)| {
                        let mut key = vec![first];
                        key.extend(std::iter::repeat_n(7, 9 * same));
                        key.extend(rest);
                        key
                    }),
                    0..12,
                ),
                0..9,
            ),
        ) {
            inputs.iter_mut().for_each(|keys| keys.sort());
            prop_assert_eq!(order(&inputs), reference(&inputs));
        }
    }

    #[test]
    fn a_key_smaller_than_its_base_has_no_code() {
        assert_eq!(Code::of(b"ab", b"ac"), None);
        assert_eq!(Code::of(b"a", b"ab"), None);
        assert_eq!(Code::of(b"ab", b"ab"), Some(Code::SAME));
        assert!(Code::of(b"b", b"ab") > Code::of(b"ac", b"ab"));
    }
}
