-- Run once, when PostgreSQL's folder is made.
CREATE DATABASE ledger;
