-- Deliveries of the outbox to a service on this machine, without an ordering key and with one for all.
-- case: outbox deliveries=10000 key=NULL
-- case: outbox_key deliveries=2000 key='one'
-- kind: script
-- events: <deliveries>
-- peer: cqrs
CALL deliver(<deliveries>, <key>, NULL);
