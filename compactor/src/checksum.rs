//! One number for a set of rows, whatever their order: proof that a merged file holds what its inputs held.
//!
//! Every value of a row goes into its hash, so a row whose columns were mixed up counts as another row. The sum over rows
//! does not depend on their order, and lets dropped rows be taken away again. Hashes are seeded by the process and never
//! leave it.

use arrow::array::{Array, AsArray, GenericByteViewArray, MAX_INLINE_VIEW_LEN, RecordBatch};
use arrow::datatypes::{
    ByteViewType, DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use hashbrown::DefaultHashBuilder;
use std::hash::BuildHasher;

/// Hashes rows; clones agree with each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowHasher {
    text: DefaultHashBuilder,
}

/// Any odd number with many bits.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
const NULL: u64 = 0x5851_F42D_4C95_7F2D;

impl RowHasher {
    /// A hash for every row of the batch, into `hashes`.
    pub(crate) fn hash_rows(&self, batch: &RecordBatch, hashes: &mut Vec<u64>) {
        hashes.clear();
        hashes.resize(batch.num_rows(), 0);
        for column in batch.columns() {
            self.mix_column(column.as_ref(), hashes);
        }
    }

    /// The sum of the hashes of all rows.
    pub(crate) fn sum(&self, batch: &RecordBatch, hashes: &mut Vec<u64>) -> u64 {
        self.hash_rows(batch, hashes);
        hashes.iter().fold(0, |sum, hash| sum.wrapping_add(*hash))
    }

    fn mix_views<T: ByteViewType>(&self, column: &GenericByteViewArray<T>, hashes: &mut [u64]) {
        let views = column.views();
        mix(column, hashes, |row| {
            let view = views[row];
            match view as u32 {
                // A short text is all in its view.
                0..=MAX_INLINE_VIEW_LEN => (view as u64).wrapping_mul(MIX) ^ (view >> 64) as u64,
                _ => self.text.hash_one::<&[u8]>(column.value(row).as_ref()),
            }
        });
    }

    fn mix_column(&self, column: &dyn Array, hashes: &mut [u64]) {
        match column.data_type() {
            DataType::Utf8View => self.mix_views(column.as_string_view(), hashes),
            DataType::BinaryView => self.mix_views(column.as_binary_view(), hashes),
            DataType::Int32 => {
                let values = column.as_primitive::<Int32Type>().values();
                mix(column, hashes, |row| values[row] as u64);
            }
            DataType::Int64 => {
                let values = column.as_primitive::<Int64Type>().values();
                mix(column, hashes, |row| values[row] as u64);
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let values = column.as_primitive::<TimestampMicrosecondType>().values();
                mix(column, hashes, |row| values[row] as u64);
            }
            DataType::Float32 => {
                let values = column.as_primitive::<Float32Type>().values();
                mix(column, hashes, |row| values[row].to_bits().into());
            }
            DataType::Float64 => {
                let values = column.as_primitive::<Float64Type>().values();
                mix(column, hashes, |row| values[row].to_bits());
            }
            DataType::Boolean => {
                let values = column.as_boolean();
                mix(column, hashes, |row| values.value(row).into());
            }
            // No table has a column of another type; its nulls at least are compared.
            _ => mix(column, hashes, |_| 1),
        }
    }
}

fn mix(column: &dyn Array, hashes: &mut [u64], value: impl Fn(usize) -> u64) {
    let step = |hash: u64, value: u64| {
        let mixed = (hash ^ value).wrapping_mul(MIX);
        mixed ^ (mixed >> 32)
    };
    match column.nulls() {
        None => hashes.iter_mut().enumerate().for_each(|(row, hash)| *hash = step(*hash, value(row))),
        Some(nulls) => {
            for (row, hash) in hashes.iter_mut().enumerate() {
                *hash = step(*hash, if nulls.is_null(row) { NULL } else { value(row) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringViewArray, UInt32Array};
    use arrow::compute::take_record_batch;
    use std::sync::Arc;

    fn batch(numbers: [Option<i64>; 3], texts: [Option<&str>; 3]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter(numbers));
        let texts: ArrayRef = Arc::new(StringViewArray::from_iter(texts));
        RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap()
    }

    #[test]
    fn the_sum_knows_rows_but_not_their_order() {
        let hasher = RowHasher::default();
        let sum = |batch: &RecordBatch| hasher.sum(batch, &mut Vec::new());
        let rows = batch([Some(1), Some(2), None], [Some("a"), None, Some("")]);
        let turned = take_record_batch(&rows, &UInt32Array::from(vec![2, 0, 1])).unwrap();
        assert_eq!(sum(&rows), sum(&turned));
        for other in [
            batch([Some(2), Some(1), None], [Some("a"), None, Some("")]),
            batch([Some(1), Some(2), None], [Some("a"), Some(""), None]),
            batch([Some(1), Some(2), Some(0)], [Some("a"), None, Some("")]),
        ] {
            assert_ne!(sum(&rows), sum(&other));
        }
        assert_ne!(sum(&rows), sum(&rows.slice(0, 2)));
    }
}
