'use strict';

// Takes what this machine submits, and says in the log what became of each recipient.

const { ok } = require('haraka-constants');

exports.hook_connect = (next, connection) => {
    connection.relaying = true;
    next();
};

exports.hook_rcpt = (next) => next(ok);

const tell = (fate, hmail, why) => {
    for (const recipient of hmail.todo.rcpt_to) {
        const { user, host } = recipient;
        process.stdout.write(`fate ${fate} to=<${user}@${host}> ${String(why).replace(/\s+/g, ' ')}\n`);
    }
};

exports.hook_deferred = (next, hmail, { err }) => {
    tell('deferred', hmail, err);
    next();
};

exports.hook_bounce = (next, hmail, err) => {
    tell('bounced', hmail, err);
    next();
};

exports.hook_delivered = (next, hmail, [host, ip, response]) => {
    tell('delivered', hmail, `${host} ${ip} ${response}`);
    next();
};
