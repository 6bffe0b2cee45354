with arrived as ({{ arrived('orders') }})

select
    record, cycle_id, decided_at, _kafka_partition, _kafka_offset, _kafka_timestamp,
    value ->> '$.order_id' as order_id,
    value ->> '$.customer_id' as customer_id,
    value ->> '$.status' as status,
    (value ->> '$.total')::decimal(18, 2) as total,
    value ->> '$.currency' as currency
from arrived
