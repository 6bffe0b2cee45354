with arrived as ({{ arrived('payments') }})

select
    record, cycle_id, decided_at, _kafka_partition, _kafka_offset, _kafka_timestamp,
    value ->> '$.payment_id' as payment_id,
    value ->> '$.order_id' as order_id,
    (value ->> '$.amount')::decimal(18, 2) as amount,
    value ->> '$.method' as method,
    (value ->> '$.accepted')::boolean as is_accepted
from arrived
