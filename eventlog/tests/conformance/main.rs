//! The contract of [`eventlog`], checked over every backend.
//!
//! Kafka's part needs a broker, named by `LAKEHOSE_TEST_KAFKA=host:port`; without it those tests fail, unless
//! `LAKEHOSE_TEST_SKIP_KAFKA=1` says that this is meant.

mod bed;
mod suite;
mod whole;
mod groups;
mod control;
mod mock;

/// Runs each function of the suite over both backends.
macro_rules! over_every_backend {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[test] fn $name() { crate::suite::$name(&crate::bed::Bed::local()) })*
        }
        mod kafka {
            $(#[test] fn $name() {
                if let Some(bed) = crate::bed::Bed::kafka() {
                    crate::suite::$name(&bed)
                }
            })*
        }
    };
}

over_every_backend!(
    a_closed_log_refuses_appends,
    a_newer_exclusive_writer_shuts_the_older_out,
    a_hint_does_not_decide_where_reading_starts,
    a_poll_hands_out_a_bounded_number_of_records,
    a_position_outside_the_log_is_reported_and_a_seek_heals_it,
    a_reader_of_all_records_knows_that_it_is_at_the_end,
    a_record_of_five_megabytes_comes_back_whole,
    a_record_that_is_too_large_is_refused_and_its_neighbours_are_not,
    a_topic_that_does_not_exist_is_refused_at_once,
    a_whole_append_tells_where_each_record_is,
    a_whole_append_to_no_topic_or_a_closed_log_is_refused,
    an_answer_names_the_place_where_the_record_is_read,
    an_exclusive_writer_appends_all_or_nothing,
    an_empty_topic_is_idle_and_starts_at_zero,
    bounds_name_the_first_and_the_next_offset,
    empty_values_and_repeated_headers_come_back_as_they_were,
    every_one_of_many_partitions_is_read,
    one_record_that_is_too_large_keeps_the_whole_append_out,
    pausing_loses_nothing_and_skips_nothing,
    reading_goes_on_where_the_caller_says,
    records_of_a_key_stay_in_order_in_a_dense_partition,
    seeking_goes_back_and_forward,
    the_end_is_known_while_reading,
    two_callers_make_one_topic,
    waiting_readers_see_new_records_soon,
    whole_appends_of_many_callers_go_on_beside_each_other_and_beside_plain_ones,
);
