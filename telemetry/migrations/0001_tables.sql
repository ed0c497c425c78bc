-- Tables of readings with the champion's main predictions, batteries, closed cycles and all predictions.
-- Column names, units and signs are those of telemetry/contract.py (a test compares them).
-- A missing value is NULL, never NaN: PostgreSQL sorts NaN above every number, so it would exceed any upper limit.

CREATE TABLE IF NOT EXISTS batteries (
    battery_id          text PRIMARY KEY CHECK (battery_id ~ '^[A-Za-z0-9_.-]{1,50}$'),
    nominal_capacity_ah double precision,
    nominal_voltage     double precision,
    chemistry           text,
    cells_in_series     double precision,
    cells_in_parallel   double precision,
    model               text,
    in_service_since    timestamptz,
    fleet               text
);

CREATE TABLE IF NOT EXISTS ev_telemetry (
    battery_id            text NOT NULL,
    time                  timestamptz NOT NULL,
    voltage               double precision,
    current               double precision,
    temperature           double precision,
    soc                   double precision,
    soh                   double precision,
    ambient_temperature   double precision,
    charge_cycles         double precision,
    power_consumption     double precision,
    is_charging           boolean,
    temperature_min       double precision,
    cell_voltage_min      double precision,
    cell_voltage_max      double precision,
    cell_voltage_median   double precision,
    insulation_resistance double precision,
    odometer_km           double precision,
    speed_kmh             double precision,
    warning_level         double precision,
    status                text,
    rul_prediction        double precision,
    failure_probability   double precision,
    prediction_timestamp  timestamptz,
    created_at            timestamptz NOT NULL DEFAULT now(),
    -- A prediction may arrive before its reading; a reading always has the three required measurements.
    CONSTRAINT ev_telemetry_complete
        CHECK (num_nulls(voltage, current, temperature) = 0 OR prediction_timestamp IS NOT NULL)
);

-- Makes readings unique and finds the newest reading of a battery.
CREATE UNIQUE INDEX IF NOT EXISTS ev_telemetry_battery_time ON ev_telemetry (battery_id, time DESC);

CREATE TABLE IF NOT EXISTS battery_cycles (
    battery_id               text NOT NULL,
    cycle_index              double precision NOT NULL,
    kind                     text NOT NULL DEFAULT 'cycle',
    start_time               timestamptz,
    end_time                 timestamptz,
    throughput_ah            double precision,
    capacity_ah              double precision,
    capacity_method          text,
    soh                      double precision,
    warning_level            double precision,
    cc_charge_ah             double precision,
    cc_charge_time_s         double precision,
    cc_voltage_mean_v        double precision,
    cc_voltage_std_v         double precision,
    cc_voltage_kurtosis      double precision,
    cc_voltage_skewness      double precision,
    cc_voltage_slope         double precision,
    cc_voltage_entropy       double precision,
    cv_charge_ah             double precision,
    cv_charge_time_s         double precision,
    cv_current_mean_a        double precision,
    cv_current_std_a         double precision,
    cv_current_kurtosis      double precision,
    cv_current_skewness      double precision,
    cv_current_slope         double precision,
    cv_current_entropy       double precision,
    charge_window_1_ah       double precision,
    charge_window_2_ah       double precision,
    charge_window_3_ah       double precision,
    charge_window_4_ah       double precision,
    discharge_window_1_ah    double precision,
    discharge_window_2_ah    double precision,
    discharge_window_3_ah    double precision,
    discharge_window_4_ah    double precision,
    charge_voltage_mean_v    double precision,
    discharge_voltage_mean_v double precision,
    charge_current_mean_a    double precision,
    discharge_current_mean_a double precision,
    resistance_ohm           double precision,
    cell_voltage_spread_v    double precision,
    temperature_mean_c       double precision,
    temperature_rise_c       double precision,
    PRIMARY KEY (battery_id, cycle_index, kind)
);

CREATE TABLE IF NOT EXISTS battery_predictions (
    battery_id    text NOT NULL,
    time          timestamptz NOT NULL,
    target        text NOT NULL,
    value         double precision NOT NULL,
    lower         double precision,
    upper         double precision,
    due           timestamptz,
    model_name    text,
    model_version text,
    role          text NOT NULL DEFAULT 'champion' CHECK (role IN ('champion', 'challenger')),
    predicted_at  timestamptz NOT NULL DEFAULT now()
);

CREATE UNIQUE INDEX IF NOT EXISTS battery_predictions_key
    ON battery_predictions (battery_id, time DESC, target, role);
