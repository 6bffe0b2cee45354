{#- Every cycle up to the newest is in the model with as many rows as the ledger says; there may be
    more, for a dead letter that was replayed is a row at the offset of its old cycle. -#}
{% test complete(model, topic) %}
with promised as (
    select record, rows as promised from {{ source('bronze', 'bronze_cycles') }}
    where topic = '{{ topic }}'
),
staged as (select record, count(*) as staged from {{ model }} group by 1)

select record, promised, coalesce(staged, 0) as staged
from promised left join staged using (record)
where coalesce(staged, 0) < promised
{% endtest %}
