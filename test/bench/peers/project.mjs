// usage: project.mjs STORE DATABASE EVENTS SECONDS
//
// A projection as Node programs do it, in batches of 500, until that many events or
// seconds: with message-db a loop over its function and a statement for each event,
// with Emmett its own consumer. Prints how many events it projected and in how many seconds.
import pg from 'pg';
import { rawSql } from '@event-driven-io/dumbo';
import { getPostgreSQLEventStore, postgreSQLRawSQLProjection } from '@event-driven-io/emmett-postgresql';

const [store, database, wanted, most] = process.argv.slice(2).map((a, i) => (i > 1 ? Number(a) : a));
const url = `postgresql://postgres@${encodeURIComponent(process.env.PGHOST)}:${process.env.PGPORT ?? 5432}/${database}`;
const amount = (e) => (e.type === 'Withdrawn' ? -e.data.amount : e.data.amount);
const began = performance.now();
const seconds = () => (performance.now() - began) / 1000;
let count = 0;

await (store === 'emmett' ? emmett() : messageDb());
console.log(count, seconds());
process.exit(0);

async function emmett() {
  const consumer = getPostgreSQLEventStore(url, { schema: { autoMigration: 'None' } })
    .consumer({ pulling: { batchSize: 500, pullingFrequencyInMs: 0 } });
  consumer.projector({
    processorId: 'balance',
    projection: postgreSQLRawSQLProjection({
      name: 'balance',
      canHandle: ['Opened', 'Deposited', 'Withdrawn'],
      evolve: (e) => rawSql(e.type === 'Opened'
        ? `INSERT INTO balance VALUES ('${e.metadata.streamName}', 0, 0, now()) ON CONFLICT (entity_id) DO NOTHING`
        : `UPDATE balance SET balance = balance + ${amount(e)}, events = events + 1, updated_at = now()
           WHERE entity_id = '${e.metadata.streamName}'`),
    }),
    stopAfter: () => ++count >= wanted || (count % 500 === 0 && seconds() > most),
  });
  await consumer.start();
}

async function messageDb() {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  let position = 0;
  while (count < wanted && seconds() < most) {
    const { rows } = await client.query({
      name: 'get', text: "SELECT * FROM get_category_messages('account', $1, 500)", values: [position + 1] });
    await client.query('BEGIN');
    for (const row of rows) {
      const e = { type: row.type, data: JSON.parse(row.data) };
      if (e.type === 'Opened')
        await client.query({ name: 'opened', values: [row.stream_name],
          text: 'INSERT INTO balance VALUES ($1, 0, 0, now()) ON CONFLICT (entity_id) DO NOTHING' });
      else
        await client.query({ name: 'moved', values: [row.stream_name, amount(e)],
          text: 'UPDATE balance SET balance = balance + $2, events = events + 1, updated_at = now() WHERE entity_id = $1' });
      position = Number(row.global_position);
    }
    await client.query({ name: 'offset', text: 'UPDATE projection_offset SET position = $1', values: [position] });
    await client.query('COMMIT');
    count += rows.length;
  }
}
