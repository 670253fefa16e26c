//! Copies rows of several batches into one: row by row, or stretch by stretch where they stand side by side.
//!
//! Fragments that hold many rows of a device, and segments, hand over their rows in stretches. To copy a stretch costs
//! little more than to copy a row.

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, GenericByteArray, GenericByteBuilder, PrimitiveBuilder, RecordBatch,
};
use arrow::compute::{interleave, interleave_record_batch};
use arrow::datatypes::{
    ByteArrayType, DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    Utf8Type,
};
use arrow::error::ArrowError;
use std::ops::Range;
use std::sync::Arc;

/// From this length on, on average, stretches are cheaper than rows.
const STRETCH: usize = 4;

/// The given rows, each the number of its batch and its number in it; there is at least one.
pub(crate) fn gather(batches: &[&RecordBatch], rows: &[(usize, usize)]) -> Result<RecordBatch, ArrowError> {
    let follows = |a: &(usize, usize), b: &(usize, usize)| a.0 == b.0 && a.1 + 1 == b.1;
    let stretches: Vec<Stretch> =
        rows.chunk_by(follows).map(|rows| (rows[0].0, rows[0].1..rows[0].1 + rows.len())).collect();
    if rows.len() < STRETCH * stretches.len() {
        return interleave_record_batch(batches, rows);
    }
    let column = |column: usize| -> Result<ArrayRef, ArrowError> {
        let parts: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        Ok(match parts[0].data_type() {
            DataType::Utf8 => texts::<Utf8Type>(&parts, &stretches)?,
            DataType::Int32 => numbers::<Int32Type>(&parts, &stretches),
            DataType::Int64 => numbers::<Int64Type>(&parts, &stretches),
            DataType::Float32 => numbers::<Float32Type>(&parts, &stretches),
            DataType::Float64 => numbers::<Float64Type>(&parts, &stretches),
            DataType::Timestamp(TimeUnit::Microsecond, _) => numbers::<TimestampMicrosecondType>(&parts, &stretches),
            _ => interleave(&parts, rows)?,
        })
    };
    let columns = (0..batches[0].num_columns()).map(column).collect::<Result<_, _>>()?;
    RecordBatch::try_new(batches[0].schema(), columns)
}

/// Rows that stand side by side, and their batch.
type Stretch = (usize, Range<usize>);

fn numbers<T: ArrowPrimitiveType>(parts: &[&dyn Array], stretches: &[Stretch]) -> ArrayRef {
    let rows = stretches.iter().map(|(_, rows)| rows.len()).sum();
    let mut all = PrimitiveBuilder::<T>::with_capacity(rows).with_data_type(parts[0].data_type().clone());
    for (part, rows) in stretches {
        let part = parts[*part].as_primitive::<T>();
        match part.nulls() {
            None => all.append_slice(&part.values()[rows.clone()]),
            Some(_) => all.append_array(&part.slice(rows.start, rows.len())),
        }
    }
    Arc::new(all.finish())
}

fn texts<T: ByteArrayType<Offset = i32>>(parts: &[&dyn Array], stretches: &[Stretch]) -> Result<ArrayRef, ArrowError> {
    let bytes = |(part, rows): &Stretch| {
        let offsets = parts[*part].as_bytes::<T>().value_offsets();
        (offsets[rows.end] - offsets[rows.start]) as usize
    };
    let rows = stretches.iter().map(|(_, rows)| rows.len()).sum();
    let mut all = GenericByteBuilder::<T>::with_capacity(rows, stretches.iter().map(bytes).sum());
    for (part, rows) in stretches {
        let part: &GenericByteArray<T> = parts[*part].as_bytes::<T>();
        all.append_array(&part.slice(rows.start, rows.len()))?;
    }
    Ok(Arc::new(all.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use proptest::prelude::*;

    fn batch(values: &[Option<i32>]) -> RecordBatch {
        let times = values.iter().map(|v| v.map(i64::from)).collect::<TimestampMicrosecondArray>();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringArray::from_iter(values.iter().map(|v| v.map(|v| "x".repeat(v as usize % 5)))))),
            ("int", Arc::new(values.iter().copied().collect::<Int32Array>())),
            ("long", Arc::new(Int64Array::from_iter_values(values.iter().map(|v| v.unwrap_or(7).into())))),
            ("double", Arc::new(values.iter().map(|v| v.map(f64::from)).collect::<Float64Array>())),
            ("time", Arc::new(times.with_timezone("UTC"))),
            ("truth", Arc::new(values.iter().map(|v| v.map(|v| v % 2 == 0)).collect::<BooleanArray>())),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap()
    }

    proptest! {
        #[test]
        fn stretches_become_the_same_batch_as_single_rows(
            batches in proptest::collection::vec(proptest::collection::vec(proptest::option::of(0..9i32), 1..30), 1..4),
            picks in proptest::collection::vec((any::<usize>(), any::<usize>(), any::<usize>()), 1..20),
        ) {
            let batches: Vec<RecordBatch> = batches.iter().map(|values| batch(values)).collect();
            let batches: Vec<&RecordBatch> = batches.iter().collect();
            let mut rows = Vec::new();
            for (batch, start, length) in picks {
                let batch = batch % batches.len();
                let start = start % batches[batch].num_rows();
                let length = 1 + length % (batches[batch].num_rows() - start);
                rows.extend((start..start + length).map(|row| (batch, row)));
            }
            prop_assert_eq!(gather(&batches, &rows).unwrap(), interleave_record_batch(&batches, &rows).unwrap());
        }
    }
}
