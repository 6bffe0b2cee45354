{#- Every cycle up to the newest is in the model with as many rows as the ledger says. -#}
{% test complete(model, topic) %}
with promised as (
    select record, rows as promised from {{ source('bronze', 'bronze_cycles') }}
    where topic = '{{ topic }}' and rows > 0
),
staged as (select record, count(*) as staged from {{ model }} group by 1)

select record, coalesce(promised, 0) as promised, coalesce(staged, 0) as staged
from promised full join staged using (record)
where coalesce(promised, 0) <> coalesce(staged, 0)
{% endtest %}
