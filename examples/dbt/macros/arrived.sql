{#- The rows of a topic that came behind the last cycle in this model, each with its cycle.

    What came is read from the ledger: ranges of offsets, numbered by `record`. So late messages,
    compacted files and clocks do not matter, and a run that is done again adds nothing.
    Two conditions: the literal one lets DuckDB skip files, the join gives each row its cycle. -#}
{% macro arrived(topic) %}
{#- Both sources before the first query: its connection knows only what was opened by then. -#}
{%- set table = source('bronze', 'bronze_' ~ topic) -%}
{%- set ledger = source('bronze', 'bronze_cycles') -%}
{%- set cycles -%}
    select record, cycle_id, decided_at, part.partition, part.start, part."end"
    from (select *, unnest(ranges) as part from {{ ledger }}
          where topic = '{{ topic }}' and record > {{ last_record() }})
{%- endset -%}
select rows.*, cycles.record, cycles.cycle_id, cycles.decided_at
from {{ table }} as rows
asof join ({{ cycles }}) as cycles
    on rows._kafka_partition = cycles.partition and rows._kafka_offset >= cycles.start
where {{ condition(cycles) }}
{% endmacro %}


{#- The newest cycle in this model; -1 in one that is built from nothing. -#}
{% macro last_record() -%}
{%- if execute and is_incremental() -%}
    {{- answer("select coalesce(max(record), -1) from " ~ this) -}}
{%- else -%} -1 {%- endif -%}
{%- endmacro %}


{#- One span of offsets per partition: ranges follow each other without a hole. -#}
{% macro condition(cycles) -%}
{%- set spans -%}
    select coalesce(string_agg(format(
        '(_kafka_partition = {} and _kafka_offset >= {} and _kafka_offset < {})',
        partition, first, last), ' or '), 'false')
    from (select partition, min(start) as first, max("end") as last from ({{ cycles }}) group by 1)
{%- endset -%}
{%- if execute -%} {{ answer(spans) }} {%- else -%} true {%- endif -%}
{%- endmacro %}


{#- The single value that a query answers. -#}
{% macro answer(query) -%}
{{ run_query(query).columns[0].values()[0] }}
{%- endmacro %}
