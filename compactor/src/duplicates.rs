//! Finds copies of events among the inputs of a merge: rows with the same `device_id` and `id`. Of all copies the first
//! by `(kafka_partition, kafka_offset)` stays.
//!
//! Copies need not stand side by side (an event sent again without a `time` got another one), so they are looked for
//! before the merge, over the two columns alone. A first look keeps a hash of every row; nearly always no two are equal
//! and that was all. If some are, a second look keeps of those keys another hash and the first place of each. Hashes are
//! seeded anew for every search, so that nobody can send events whose hashes agree.
//!
//! Memory is bounded, even if every row is a copy: of hashes that would not fit at once, each look takes a range, and
//! there are as many looks as there are ranges.
//!
//! Copies are found among the rows of one merge, not across files that never meet in one.

mod hashes;

use crate::input::Input;
use crate::merge::MergeError;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, Schema, SchemaRef};
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use hashes::Hashes;
use roaring::RoaringTreemap;
use std::hash::{BuildHasher, Hasher};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

/// Rows whose copies two looks find in so many bytes.
pub(crate) fn rows_of_two_looks(memory: u64) -> u64 {
    2 * hashes::rows_in(memory)
}

/// Rows that a merge must leave out: offsets by partition.
#[derive(Debug, Default)]
pub(crate) struct Duplicates {
    rows: HashMap<i32, RoaringTreemap>,
}

impl Duplicates {
    /// Reads the inputs and finds their copies, in about so much memory. Tables without the columns have none.
    pub(crate) async fn find(inputs: &[Input], schema: &Schema, memory: u64) -> Result<Duplicates, MergeError> {
        let mut found = Duplicates::default();
        let Some(columns) = key_columns(schema) else { return Ok(found) };
        let search = Search { inputs, columns, hashers: Default::default() };
        let rows = inputs.iter().map(Input::rows).sum();
        for range in hashes::ranges(rows, memory) {
            let repeated = search.repeated(range, rows, memory).await?;
            for hashes in repeated.chunks(First::fitting(memory / 2)) {
                search.leave_out_copies(hashes, &mut found).await?;
            }
        }
        Ok(found)
    }

    /// Those of the given rows that must be left out, in order.
    pub(crate) fn among(&self, batch: &RecordBatch, rows: Range<usize>) -> Vec<usize> {
        // Asked for every run, which may be a row: nearly always there is nothing to look up.
        if self.rows.is_empty() {
            return Vec::new();
        }
        let column = |name: &str| batch.column_by_name(name);
        let (Some(partitions), Some(offsets)) = (column("kafka_partition"), column("kafka_offset")) else {
            return Vec::new();
        };
        let place = places(partitions.as_primitive(), offsets.as_primitive());
        rows.filter(|row| place(*row).is_some_and(|place| self.holds(place))).collect()
    }

    /// How many places there are whose rows are left out.
    pub(crate) fn len(&self) -> u64 {
        self.rows.values().map(RoaringTreemap::len).sum()
    }

    fn holds(&self, (partition, offset): (i32, i64)) -> bool {
        self.rows.get(&partition).is_some_and(|offsets| offsets.contains(offset as u64))
    }

    fn insert(&mut self, (partition, offset): (i32, i64)) {
        self.rows.entry(partition).or_default().insert(offset as u64);
    }
}

fn key_columns(schema: &Schema) -> Option<SchemaRef> {
    let field = |name: &str| schema.field_with_name(name).ok().cloned();
    let fields =
        ["device_id", "id", "kafka_partition", "kafka_offset"].map(field).into_iter().collect::<Option<Vec<_>>>();
    fields.map(|fields| Arc::new(Schema::new(fields)))
}

/// Where a row was in the log. A file of another writer may not say it: then its rows cannot be told apart, and stay.
fn places<'a>(
    partitions: &'a arrow::array::PrimitiveArray<Int32Type>,
    offsets: &'a arrow::array::PrimitiveArray<Int64Type>,
) -> impl Fn(usize) -> Option<(i32, i64)> + 'a {
    move |row| {
        let is_known = partitions.is_valid(row) && offsets.is_valid(row);
        is_known.then(|| (partitions.value(row), offsets.value(row)))
    }
}

struct Search<'a> {
    inputs: &'a [Input],
    columns: SchemaRef,
    hashers: (DefaultHashBuilder, DefaultHashBuilder),
}

/// The first place of a key that more than one row has.
struct First {
    hash: u64,
    /// The other hash of the key, and the place; `None` before the first row was met.
    key: Option<(u64, i32, i64)>,
}

impl First {
    /// How many of them a table of so many bytes holds.
    fn fitting(bytes: u64) -> usize {
        let slots = (bytes as usize / (size_of::<First>() + 1)).max(8);
        // A table has a power of two of slots, and fills seven eighths of them.
        (1 << slots.ilog2()) / 8 * 7
    }
}

impl Search<'_> {
    /// Hashes in the range that more than one row has, sorted.
    async fn repeated(&self, range: RangeInclusive<u64>, rows: u64, memory: u64) -> Result<Vec<u64>, MergeError> {
        let mut hashes = Hashes::new(rows, memory);
        let columns = Arc::new(self.columns.project(&[0, 1])?);
        for input in self.inputs {
            let mut batches = input.rows_of(Arc::clone(&columns))?;
            while let Some(batch) = batches.next().await? {
                each_key(&batch, &self.hashers.0, |_, hash, _| {
                    if range.contains(&hash) {
                        hashes.push(hash);
                    }
                });
            }
        }
        Ok(hashes.repeated())
    }

    /// Finds the rows that have one of the hashes, and leaves out all but the first of each key.
    async fn leave_out_copies(&self, hashes: &[u64], found: &mut Duplicates) -> Result<(), MergeError> {
        let (Some(first), Some(last)) = (hashes.first(), hashes.last()) else { return Ok(()) };
        let range = *first..=last | hashes::AGAIN;
        let mut firsts: HashTable<First> = HashTable::with_capacity(hashes.len());
        for hash in hashes {
            firsts.insert_unique(*hash, First { hash: *hash, key: None }, |first| first.hash);
        }
        for input in self.inputs {
            let mut batches = input.rows_of(Arc::clone(&self.columns))?;
            while let Some(batch) = batches.next().await? {
                let place = places(batch.column(2).as_primitive(), batch.column(3).as_primitive());
                each_key(&batch, &self.hashers.0, |row, hash, key| {
                    if range.contains(&hash)
                        && let Some(place) = place(row)
                        && let Some(later) = meet(&mut firsts, hash & !hashes::AGAIN, || self.other_hash(key), place)
                    {
                        found.insert(later);
                    }
                });
            }
        }
        Ok(())
    }

    fn other_hash(&self, key: (&str, &str)) -> u64 {
        self.hashers.1.hash_one(key)
    }
}

/// Takes in a row; returns the later place of two copies.
fn meet(
    firsts: &mut HashTable<First>,
    hash: u64,
    other: impl FnOnce() -> u64,
    (partition, offset): (i32, i64),
) -> Option<(i32, i64)> {
    firsts.find(hash, |first| first.hash == hash)?;
    let other = other();
    let is_same = |first: &First| first.hash == hash && first.key.is_none_or(|key| key.0 == other);
    let Some(first) = firsts.find_mut(hash, is_same) else {
        // Two keys with one hash.
        let first = First { hash, key: Some((other, partition, offset)) };
        firsts.insert_unique(hash, first, |first| first.hash);
        return None;
    };
    let place = (other, partition, offset);
    let earlier = first.key.map_or(place, |known| known.min(place));
    let later = first.key.map(|known| known.max(place)).filter(|later| *later != earlier);
    first.key = Some(earlier);
    later.map(|(_, partition, offset)| (partition, offset))
}

/// Calls `each` with the number, the hash and the key of every row that has one.
fn each_key(batch: &RecordBatch, hasher: &DefaultHashBuilder, mut each: impl FnMut(usize, u64, (&str, &str))) {
    let (devices, ids) = (batch.column(0).as_string_view(), batch.column(1).as_string_view());
    // Rows are sorted by device more often than not.
    let mut known: Option<(&str, u64)> = None;
    for row in (0..batch.num_rows()).filter(|row| devices.is_valid(*row) && ids.is_valid(*row)) {
        let (device, id) = (devices.value(row), ids.value(row));
        let of_device = match known {
            Some((same, hash)) if same == device => hash,
            _ => hasher.hash_one(device),
        };
        known = Some((device, of_device));
        let mut state = hasher.build_hasher();
        state.write_u64(of_device);
        state.write(id.as_bytes());
        each(row, state.finish(), (device, id));
    }
}

#[cfg(test)]
mod tests;
