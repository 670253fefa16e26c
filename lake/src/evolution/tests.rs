use super::*;
use crate::dataset::{Dataset, DatasetSpec};
use crate::schema::{dead, events};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn schema(columns: &str) -> TableSchema {
    let spec: DatasetSpec = serde_json::from_str(&format!("{{\"columns\":{columns}}}")).unwrap();
    events(&Dataset::new("d", spec).unwrap())
}

/// The declared columns, in their order.
fn declared(schema: &TableSchema) -> Vec<String> {
    let fields = &schema.arrow.fields()[schema.declared.clone()];
    fields.iter().map(|field| format!("{} {}", field.name(), word(field.data_type()))).collect()
}

fn refusal(table: &str, wanted: &str) -> String {
    merge(&schema(table), &schema(wanted)).unwrap_err().to_string()
}

#[test]
fn new_columns_stand_behind_the_declared_ones_and_before_data() {
    let wanted = schema(r#"{"c":"boolean","a":"double","b":{"type":"string","stats":true}}"#);
    let merged = merge(&schema(r#"{"a":"double","old":"int"}"#), &wanted).unwrap();
    assert_eq!(declared(&merged.table), ["a double", "old int", "c boolean", "b string"]);
    assert_eq!(merged.table.arrow.field(merged.table.declared.end).name(), "data");
    assert_eq!(merged.table.stats.last().unwrap(), "b");
    assert_eq!(merged.files, wanted);
    assert_eq!(merged.describe(), "c boolean added, b string added, b with statistics");
}

#[test]
fn an_int_becomes_a_long_and_stays_one_for_those_who_declare_an_int() {
    let widened = merge(&schema(r#"{"n":"int"}"#), &schema(r#"{"n":"long"}"#)).unwrap();
    assert_eq!(declared(&widened.table), ["n long"]);
    assert_eq!(widened.describe(), "n widened to long");
    let rolled_back = merge(&widened.table, &schema(r#"{"n":"int"}"#)).unwrap();
    assert_eq!(
        (declared(&rolled_back.table), declared(&rolled_back.files)),
        (vec!["n long".into()], vec!["n long".into()])
    );
    assert!(!rolled_back.changes_table());
}

#[test]
fn the_table_keeps_columns_and_statistics_that_are_not_declared_any_more() {
    let table = schema(r#"{"a":{"type":"double","stats":true},"b":"long"}"#);
    let merged = merge(&table, &schema(r#"{"b":"long"}"#)).unwrap();
    assert_eq!(merged.table, table);
    assert_eq!(declared(&merged.files), ["b long"]);
    assert!(!merged.files.stats.contains(&"a".to_owned()));
    assert!(!merged.changes_table());
}

#[test]
fn a_type_that_cannot_be_taken_is_refused_with_both_types_and_a_way_out() {
    assert_eq!(
        refusal(r#"{"n":"long"}"#, r#"{"n":"string"}"#),
        "its column `n` is long, and string is declared; declare it as long, or give the new column another name \
         (`from` says where its value stands), or choose another name for the dataset"
    );
    for (found, wanted) in [
        ("timestamp", "string"),
        ("string", "timestamp"),
        ("string", "long"),
        ("long", "double"),
        ("double", "long"),
        ("boolean", "int"),
        // Readers miss rows when they compare these.
        ("int", "double"),
    ] {
        let refusal = refusal(&format!(r#"{{"n":"{found}"}}"#), &format!(r#"{{"n":"{wanted}"}}"#));
        assert!(refusal.contains(&format!("is {found}, and {wanted} is declared")), "{refusal}");
    }
}

#[test]
fn names_that_differ_in_case_alone_are_refused() {
    let refusal = refusal(r#"{"Temp":"double"}"#, r#"{"temp":"double"}"#);
    assert_eq!(refusal, "it has a column `Temp`, which readers cannot tell from `temp`; declare it as `Temp`");
}

#[test]
fn a_table_of_another_kind_is_refused() {
    let events = schema("{}");
    let refusal = |table: &TableSchema, wanted: &TableSchema| merge(table, wanted).unwrap_err().to_string();
    assert!(refusal(&dead(), &events).contains("it has no column `id`"));
    assert!(refusal(&events, &dead()).contains("it has no column `reason`"));
    let mistyped = TableSchema::from_delta(&events.to_delta().replace("timestamp", "string"), "").unwrap();
    assert!(refusal(&mistyped, &events).contains("its column `time` is string, not `time` timestamp"));
}

/// Declarations of some of five columns, of any type, with statistics or without.
fn declarations() -> impl Strategy<Value = TableSchema> {
    let kinds = ["string", "int", "long", "float", "double", "boolean", "timestamp"];
    let column = ("[a-e]", proptest::sample::select(kinds.to_vec()), any::<bool>());
    proptest::collection::vec(column, 0..5).prop_map(|columns| {
        let mut seen = Vec::new();
        let columns = columns.into_iter().filter(|(name, ..)| {
            let is_new = !seen.contains(name);
            seen.push(name.clone());
            is_new
        });
        let columns: Vec<String> =
            columns.map(|(name, kind, stats)| format!(r#""{name}":{{"type":"{kind}","stats":{stats}}}"#)).collect();
        schema(&format!("{{{}}}", columns.join(",")))
    })
}

/// Columns by name, and those with statistics: what does not depend on who came first.
fn content(schema: &TableSchema) -> (BTreeMap<String, DataType>, Vec<String>) {
    let fields = schema.arrow.fields().iter();
    let mut stats = schema.stats.clone();
    stats.sort();
    (fields.map(|field| (field.name().clone(), field.data_type().clone())).collect(), stats)
}

proptest! {
    #[test]
    fn whoever_comes_first_the_table_ends_with_the_same_columns(
        table in declarations(), a in declarations(), b in declarations(),
    ) {
        let both = |first: &TableSchema, second: &TableSchema| merge(&merge(&table, first).ok()?.table, second).ok();
        if let (Some(ab), Some(ba)) = (both(&a, &b), both(&b, &a)) {
            prop_assert_eq!(content(&ab.table), content(&ba.table));
        }
    }

    #[test]
    fn no_column_is_lost_and_no_type_gets_narrower(table in declarations(), wanted in declarations()) {
        if let Ok(merged) = merge(&table, &wanted) {
            let order = |schema: &TableSchema| declared(schema).iter().map(|c| c[..1].to_owned()).collect::<Vec<_>>();
            prop_assert!(order(&merged.table).starts_with(&order(&table)));
            for old in table.arrow.fields().iter().chain(wanted.arrow.fields()) {
                let new = merged.table.arrow.field_with_name(old.name()).unwrap();
                prop_assert!(holds(new.data_type(), old.data_type()), "{old:?} {new:?}");
            }
            for field in merged.files.arrow.fields() {
                prop_assert_eq!(merged.table.arrow.field_with_name(field.name()).unwrap(), field.as_ref());
            }
            prop_assert!(table.stats.iter().chain(&wanted.stats).all(|name| merged.table.stats.contains(name)));
            prop_assert_eq!(merged.changes_table(), merged.table != table);
        }
    }

    #[test]
    fn who_comes_again_changes_nothing(table in declarations(), wanted in declarations()) {
        if let Ok(merged) = merge(&table, &wanted) {
            let again = merge(&merged.table, &wanted).unwrap();
            prop_assert!(!again.changes_table());
            prop_assert_eq!((again.table, again.files), (merged.table, merged.files));
        }
    }
}
