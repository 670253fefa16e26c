use super::*;
use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray};
use lake::parquet::FileWriter;
use lake::schema::TableSchema;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Device, id, partition, offset.
type Row = (Option<u32>, Option<u32>, Option<i32>, i64);

fn batch(rows: &[Row]) -> RecordBatch {
    let texts = |of: &dyn Fn(&Row) -> Option<u32>| -> ArrayRef {
        Arc::new(StringArray::from_iter(rows.iter().map(|row| of(row).map(|number| format!("name-{number}")))))
    };
    let columns: [(&str, ArrayRef); 4] = [
        ("device_id", texts(&|row| row.0)),
        ("id", texts(&|row| row.1)),
        ("kafka_partition", Arc::new(Int32Array::from_iter(rows.iter().map(|row| row.2)))),
        ("kafka_offset", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3)))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// Those rows that the search says are to be left out.
fn left_out(files: &[Vec<Row>], memory: u64) -> Vec<Row> {
    let search = async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (mut inputs, mut left_out) = (Vec::new(), Vec::new());
        let arrow = batch(&[]).schema();
        for (number, rows) in files.iter().enumerate() {
            let schema = TableSchema { arrow: Arc::clone(&arrow), declared: 0..0, stats: Vec::new() };
            let mut writer = FileWriter::new(Vec::new(), &schema, &[]).unwrap();
            writer.write(&batch(rows)).unwrap();
            let (bytes, _) = writer.finish().unwrap();
            let (name, size) = (number.to_string(), bytes.len() as u64);
            let location = Path::from(name.as_str());
            store.put(&location, bytes.into()).await.unwrap();
            inputs.push(Input::open(Arc::clone(&store), location, &name, size).await.unwrap());
        }
        let duplicates = Duplicates::find(&inputs, &arrow, memory).await.unwrap();
        for rows in files {
            left_out.extend(duplicates.among(&batch(rows), 0..rows.len()).into_iter().map(|row| rows[row]));
        }
        left_out
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut rows = runtime.block_on(search);
    rows.sort();
    rows
}

/// All rows but the first of each key, found by comparing every row with every other.
fn reference(files: &[Vec<Row>]) -> Vec<Row> {
    let mut by_key: BTreeMap<(u32, u32), Vec<Row>> = BTreeMap::new();
    for row in files.concat() {
        if let (Some(device), Some(id), Some(_), _) = row {
            by_key.entry((device, id)).or_default().push(row);
        }
    }
    let later = |mut rows: Vec<Row>| {
        rows.sort_by_key(|row| (row.2, row.3));
        rows.split_off(1)
    };
    let mut rows: Vec<Row> = by_key.into_values().flat_map(later).collect();
    rows.sort();
    rows
}

proptest! {
    /// However little memory there is: then there are many looks, each at a few hashes.
    #[test]
    fn copies_are_those_that_comparing_all_rows_finds(
        keys in proptest::collection::vec(
            (proptest::option::weighted(0.9, 0..4u32), proptest::option::weighted(0.9, 0..12u32), 0..20i32),
            0..120,
        ),
        places in any::<u64>(),
        cuts in 1..5usize,
        memory in 1..1_500u64,
    ) {
        let scattered = |number: usize| (number as u64).wrapping_mul(places | 1) as i64;
        let row = |(number, (device, id, partition)): (usize, &(Option<u32>, Option<u32>, i32))| {
            (*device, *id, (*partition < 18).then_some(partition % 3), scattered(number))
        };
        let rows: Vec<Row> = keys.iter().enumerate().map(row).collect();
        let files: Vec<Vec<Row>> = rows.chunks(rows.len().div_ceil(cuts).max(1)).map(<[Row]>::to_vec).collect();
        prop_assert_eq!(left_out(&files, memory), reference(&files));
    }
}

#[test]
fn every_row_may_be_a_copy_and_take_many_looks() {
    let file = |copy: i64| (0..2_000).map(|n| (Some(n % 7), Some(n), Some(0), copy * 2_000 + i64::from(n))).collect();
    let files: Vec<Vec<Row>> = (0..5).map(file).collect();
    let found = left_out(&files, 16 << 10);
    assert_eq!(found.len(), 8_000);
    assert_eq!(found, reference(&files));
}

#[test]
fn rows_of_the_same_place_are_never_both_left_out() {
    let row = (Some(1), Some(1), Some(0), 7);
    assert!(left_out(&[vec![row], vec![row]], 1 << 20).is_empty());
}

#[test]
fn keys_with_the_same_hash_are_told_apart() {
    let mut firsts = HashTable::new();
    firsts.insert_unique(8, First { hash: 8, key: None }, |first| first.hash);
    let mut meet = |hash, other, offset| meet(&mut firsts, hash, || other, (0, offset));
    assert_eq!(meet(8, 100, 5), None);
    assert_eq!(meet(8, 200, 6), None);
    assert_eq!(meet(8, 100, 4), Some((0, 5)));
    assert_eq!(meet(8, 200, 7), Some((0, 7)));
    assert_eq!(meet(8, 100, 9), Some((0, 9)));
    assert_eq!(meet(24, 100, 1), None);
}
